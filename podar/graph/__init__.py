"""What must go together: the traced graph of a model."""

from podar.graph import complex as _complex
from podar.graph import composites as _composites
from podar.graph import computed as _computed
from podar.graph import lookups as _lookups
from podar.graph import parts as _parts
from podar.graph import recurrent as _recurrent
from podar.graph import rules as _rules
from podar.graph import views as _views
from podar.graph import writes as _writes
from podar.graph.graph import Graph, Group, trace
from podar.graph.tracer import Tracer, rule

__all__ = ["Graph", "Group", "Tracer", "rule", "trace"]

del _complex, _composites, _computed, _lookups, _parts, _recurrent, _rules, _views, _writes
