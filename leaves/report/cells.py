"""Select the code that the trainings of a chapter need, because `run_all.sh --plan` executes only this code.

The statements of the notebook are read backwards, starting from those that train. Statements that only compute
features, draw or print are skipped, so planning takes seconds and writes only into a temporary folder.
"""

import ast

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

TRAINING = ("train", "train_all")  # functions of helpers
KEPT = ("begin", "record_runs")  # functions of helpers; the first checks parameters, the second records runs


def needed_code(notebook, parameters):
    """Return the part of a chapter's code on which the chapter's trainings or later chapters depend.

    Parameters
    ----------
    notebook : Path
    parameters : dict of name to value
        These values replace the defaults in the notebook.

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
    """Remove the argument `evidence` from calls of helpers.record_runs, because no training depends on it."""

    def visit_Call(self, call):
        if is_helper(call.func, ["record_runs"]):
            call.args, call.keywords = call.args[:2], [word for word in call.keywords if word.arg == "repeats"]
        return self.generic_visit(call)


def needed_statements(statements):
    """Select the statements that are needed to train and to call the functions in `KEPT`, and keep their order.

    A statement is needed if `training_statements` finds it. It is also needed if it assigns or changes a name that
    is read by a later needed statement.
    """
    imported = {name for statement in statements if is_import(statement) for name in stored(statement)}
    trains, needed, wanted = training_statements(statements), [], set()
    for number in reversed(range(len(statements))):
        statement = statements[number]
        if number in trains or (stored(statement) | changed(statement, imported)) & wanted:
            needed.append(statement)
            if is_import(statement) or isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Assign)):
                wanted -= stored(statement)  # statements above cannot affect these names
            wanted |= loaded(statement)
    return needed[::-1]


def training_statements(statements):
    """Find the positions of the statements that train or that use a function in `KEPT`: set of int.

    A statement trains if it contains a call and names helpers.train or helpers.train_all, for example
    `found = [*map(helpers.train, specs)]`. The definition of a function does not train. An assignment without a call,
    such as `work = helpers.train`, does not train either. If one of them names helpers.train or helpers.train_all, a
    later statement trains if it contains a call and names this function or variable.
    """
    numbers, names = set(), set()  # names of variables and functions that use helpers.train or train_all
    for number, statement in enumerate(statements):
        trains = any(is_helper(node, TRAINING) or is_read(node, names) for node in ast.walk(statement))
        calls = any(isinstance(node, ast.Call) for node in ast.walk(statement))
        if isinstance(statement, ast.FunctionDef) or (isinstance(statement, ast.Assign) and not calls):
            names = names | stored(statement) if trains else names - stored(statement)
        elif trains and calls or any(is_helper(node, KEPT) for node in ast.walk(statement)):
            numbers.add(number)
    return numbers


def is_helper(node, names):
    """Return whether a syntax node is helpers.NAME, such as helpers.train, and this NAME is in `names`."""
    of_helpers = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "helpers"
    return of_helpers and node.attr in names


def is_read(node, names):
    """Return whether a node of the syntax tree reads a variable that is in `names`."""
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names


def is_import(statement):
    """Return whether a statement is an import."""
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def loaded(statement):
    """Return the names that a statement reads, including the target of an assignment such as `total += 1`."""
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    augmented = [node.target for node in ast.walk(statement) if isinstance(node, ast.AugAssign)]
    return names | {root_of(target) for target in augmented}


def stored(statement):
    """Return the names that a statement assigns: set of str, with `table` for `table[0] = 1` and `table.attrs = {}`."""
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
    """Return the nodes where a comprehension assigns its variable, which is not a variable of the notebook: set."""
    targets = [node.target for node in ast.walk(statement) if isinstance(node, ast.comprehension)]
    return {node for target in targets for node in ast.walk(target)}


def changed(statement, imported):
    """Return the names of objects that a method call may change, such as queue in queue.append(spec): set of str.

    Only calls that are statements by themselves count, so the name queue in `total = queue.count(1)` is not
    returned. Names that an import defines (`imported`) are not returned either.
    """
    alone = [node.value for node in ast.walk(statement) if isinstance(node, ast.Expr)]
    methods = [call.func for call in alone if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)]
    return {root_of(method) for method in methods} - {None, *imported}


def root_of(node):
    """Return the name at the beginning of an expression such as table.loc[0]; None if there is no name."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
