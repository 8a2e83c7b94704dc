"""What must go together: the traced graph of a model."""

from podar.graph.graph import Graph, trace
from podar.graph.groups import Group
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer

rule = operator
"""Its name where nothing but a rule is declared."""

__all__ = ["Graph", "Group", "Tracer", "operator", "rule", "trace"]
