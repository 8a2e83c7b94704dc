"""Where models come from: one file a library, each registered by `library`, found by `find`."""

from podar.libraries.register import Library, find_library, libraries, library, workshop_of

__all__ = ["Library", "find_library", "libraries", "library", "workshop_of"]
