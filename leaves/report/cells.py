"""The part of a chapter's code that decides what is trained, found by reading the code backwards from the trainings.

What only computes features, draws or prints is no part of it, so a plan takes seconds and writes nothing.
"""

import ast

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

TRAINING = ("train", "train_all")  # of helpers
KEPT = ("begin", "record_runs")  # of helpers too: the check of the parameters, and what later chapters read


def needed_code(notebook, parameters):
    """The code of a chapter without all that neither its trainings nor later chapters depend on.

    Parameters
    ----------
    notebook : Path
    parameters : dict of name to value, in the place of the defaults

    Returns
    -------
    ast.Module
    """
    given = ast.parse("\n".join(f"{name} = {value!r}" for name, value in parameters.items())).body
    statements = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            statements += ast.parse(TransformerManager().transform_cell(cell.source)).body
            statements += given if "parameters" in cell.metadata.get("tags", []) else []
    return ast.Module(needed_statements([WithoutEvidence().visit(statement) for statement in statements]), [])


class WithoutEvidence(ast.NodeTransformer):
    """Takes the evidence out of calls of helpers.record_runs: no training depends on it."""

    def visit_Call(self, call):
        if is_helper(call.func, ["record_runs"]):
            call.args, call.keywords = call.args[:2], [word for word in call.keywords if word.arg == "repeats"]
        return self.generic_visit(call)


def needed_statements(statements):
    """Those of a notebook's statements that its trainings and KEPT calls depend on, in their order.

    A statement is needed if it trains, or if it assigns or changes a name that a needed one below reads.
    """
    imported = {name for statement in statements if is_import(statement) for name in stored(statement)}
    trains, needed, wanted = training_statements(statements), [], set()
    for number in reversed(range(len(statements))):
        statement = statements[number]
        if number in trains or (stored(statement) | changed(statement, imported)) & wanted:
            needed.append(statement)
            if is_import(statement) or isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Assign)):
                wanted -= stored(statement)  # what stood in these names before is not read here
            wanted |= loaded(statement)
    return needed[::-1]


def training_statements(statements):
    """The numbers of the statements that train, hand helpers.train_all to a call, or call a KEPT function."""
    numbers, names = set(), set()  # names that stand for helpers.train_all, alone or in a tuple
    for number, statement in enumerate(statements):
        trains = any(is_helper(node, TRAINING) or is_read(node, names) for node in ast.walk(statement))
        calls = any(isinstance(node, ast.Call) for node in ast.walk(statement))
        if isinstance(statement, ast.FunctionDef) or (isinstance(statement, ast.Assign) and not calls):
            names = names | stored(statement) if trains else names - stored(statement)
        elif trains and calls or any(is_helper(node, KEPT) for node in ast.walk(statement)):
            numbers.add(number)
    return numbers


def is_helper(node, names):
    """Whether a node of the syntax tree is one of these functions of helpers."""
    of_helpers = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "helpers"
    return of_helpers and node.attr in names


def is_read(node, names):
    """Whether a node of the syntax tree reads one of these names."""
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names


def is_import(statement):
    """Whether a statement imports something."""
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def loaded(statement):
    """The names that a statement reads; one that is augmented is read too."""
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    augmented = [node.target for node in ast.walk(statement) if isinstance(node, ast.AugAssign)]
    return names | {root_of(target) for target in augmented}


def stored(statement):
    """The names that a statement assigns, itself or one of its items or attributes."""
    names, inner = set(), inner_names(statement)
    for node in ast.walk(statement):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(getattr(node, "ctx", None), ast.Store) and node not in inner:
            names.add(root_of(node))
    return names - {None}


def inner_names(statement):
    """The nodes that name the variables of comprehensions, which are no variables of the notebook."""
    targets = [node.target for node in ast.walk(statement) if isinstance(node, ast.comprehension)]
    return {node for target in targets for node in ast.walk(target)}


def changed(statement, imported):
    """The names that a statement may change by a call of a method alone, as queue.append(spec) does."""
    alone = [node.value for node in ast.walk(statement) if isinstance(node, ast.Expr)]
    methods = [call.func for call in alone if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)]
    return {root_of(method) for method in methods} - {None, *imported}


def root_of(node):
    """The name at the beginning of an expression such as table.loc[0]; None if there is none."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
