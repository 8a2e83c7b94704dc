"""What must go together: the traced graph of a model."""

from podar.graph.graph import Graph, trace
from podar.graph.groups import Group
from podar.graph.operators import arithmetic as _rules
from podar.graph.operators import complex as _complex
from podar.graph.operators import composites as _composites
from podar.graph.operators import computed_weights as _computed
from podar.graph.operators import lookups as _lookups
from podar.graph.operators import parts as _parts
from podar.graph.operators import recurrent as _recurrent
from podar.graph.operators import views as _views
from podar.graph.operators import writes as _writes
from podar.graph.tracing.tracer import Tracer, rule

__all__ = ["Graph", "Group", "Tracer", "rule", "trace"]

del _complex, _composites, _computed, _lookups, _parts, _recurrent, _rules, _views, _writes
