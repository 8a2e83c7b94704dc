"""What podar knows of operators, one file a family; every file of this folder is found by itself."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
