"""The texts in a torch.export file that torch would evaluate: held to the few forms that torch writes."""

from __future__ import annotations

import ast
import json
import re

__all__ = ["is_operator", "is_size", "is_structure"]

_LONGEST = 20_000
_DEEPEST = 60
# fmt: off
_FUNCTIONS = frozenset((
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Abs", "And", "Or", "Not",
    "Xor", "Piecewise", "ExprCondPair", "Tuple", "Equality", "Unequality", "Eq", "Ne", "Gt", "Ge", "Lt", "Le",
    "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "FloorDiv", "ModularIndexing", "Where",
    "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural",
    "FloatPow", "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt",
    "RoundToInt", "RoundDecimal", "ToFloat", "Identity", "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or",
    "floor", "ceiling", "OpaqueUnaryFn_sqrt", "OpaqueUnaryFn_log2",
))
# fmt: on
_CONSTANTS = frozenset(("true", "false", "oo", "nan", "zoo", "int_oo"))
_POWERS = ("Pow", "PowByNatural", "LShift")
_SYMBOL = re.compile(r"[a-z]+[0-9]+(_[0-9]+)?")
_LARGEST_EXPONENT = 64
_FIELDS = frozenset(("positive", "integer", "nonnegative", "real", "finite", "precision", "commutative", "evaluate"))
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.(?!from_file\b|save\b|name\b)\w+"
    r"\.[A-Za-z][A-Za-z0-9_]*"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast|invoke_subgraph|flex_attention)"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)"
    r"|math\.(trunc|ceil|floor)"
    r"|torch\.sym_(not|int|float|ite|max|min|sqrt|sum)"
    r"|torch\._sym_(sqrt|log2)"
)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_operator(text: str) -> bool:
    """Tell whether a text names an operator on numbers: nothing else that torch could look up and call."""
    return text.isascii() and _OPERATORS.fullmatch(text) is not None


def is_size(text: str) -> bool:
    """Tell whether a text is arithmetic on sizes, as sympy writes it; torch gives the text to Python's `eval`."""
    if len(text) > _LONGEST or not text.isascii():
        return False
    try:
        return _is_number(ast.parse(text.strip(), mode="eval").body, _DEEPEST)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _is_number(node: ast.expr, depth: int) -> bool:
    if depth == 0:
        return False
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool | int | float) and abs(node.value) < 2**64
    if isinstance(node, ast.Name):
        return node.id in _CONSTANTS or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand, depth - 1)
    if isinstance(node, ast.BinOp):
        parts, allowed = [node.left, node.right], (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
        return isinstance(node.op, allowed) and all(_is_number(part, depth - 1) for part in parts)
    if isinstance(node, ast.Compare):
        return all(_is_number(part, depth - 1) for part in (node.left, *node.comparators))
    if isinstance(node, ast.Tuple):
        return all(_is_number(part, depth - 1) for part in node.elts)
    return isinstance(node, ast.Call) and _is_call(node, depth)


def _is_call(node: ast.Call, depth: int) -> bool:
    name = ast.unparse(node.func).removeprefix("torch.utils._sympy.functions.")
    if name not in _FUNCTIONS or not all(_is_flag(keyword) for keyword in node.keywords):
        return False
    if name in ("Symbol", "Float"):
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        pattern = _SYMBOL if name == "Symbol" else re.compile(r"-?[0-9.]+(e[+-]?[0-9]{1,3})?")
        return len(texts) == len(node.args) == 1 and pattern.fullmatch(str(texts[0])) is not None
    if name in _POWERS and not (len(node.args) == 2 and _is_exponent(node.args[1]) and not _has_power(node.args[0])):
        return False
    return all(_is_number(argument, depth - 1) for argument in node.args)


def _is_exponent(node: ast.expr) -> bool:
    """Tell whether an exponent is a small number, so that no power takes all the memory."""
    numbers = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    simple = all(ast.unparse(call.func) in ("Integer", "Rational", "Symbol") for call in calls)
    sizes = [number for number in numbers if isinstance(number, int | float)]
    return simple and all(abs(number) <= _LARGEST_EXPONENT for number in sizes)


def _has_power(node: ast.expr) -> bool:
    calls = [ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)]
    return any(call.rpartition(".")[2] in _POWERS for call in calls)


def _is_flag(keyword: ast.keyword) -> bool:
    value = keyword.value
    return keyword.arg in _FIELDS and isinstance(value, ast.Constant) and isinstance(value.value, bool | int)


def is_structure(text: str) -> bool:
    """Tell whether a text describes what a network takes or returns: nested tuples, lists, dicts with plain names."""
    try:
        protocol, tree = json.loads(text)
        return protocol == 1 and _is_tree(tree, _DEEPEST)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_tree(tree: object, depth: int) -> bool:
    if not isinstance(tree, dict) or depth == 0 or set(tree) != {"type", "context", "children_spec"}:
        return False
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if not isinstance(children, list) or not all(_is_tree(child, depth - 1) for child in children):
        return False
    if kind is None:
        return context is None and not children
    if kind not in _CONTAINERS or not isinstance(context, str):
        return False
    names = json.loads(context)
    if names is None:
        return True
    return isinstance(names, list) and all(isinstance(name, str) and _NAME.fullmatch(name) for name in names)
