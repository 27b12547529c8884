"""The operations of packed graphs, one file each: check, plan and run; and their table."""

from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.table import OPERATIONS

__all__ = ["OPERATIONS", "Operation", "NodeShapes", "NodeData", "Plan"]
