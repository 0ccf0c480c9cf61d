"""What the characters of a Python source are, by the `ast` and `tokenize` modules."""

import ast
import io
import keyword
import tokenize
import warnings

LABELS = (
    "parameter", "string", "docstring", "comment", "keyword", "number", "function name", "class name", "attribute", "call",
    "import", "decorator",
)  # fmt: skip
Span = tuple[int, int, int]


def python_spans(source: str) -> tuple[int, list[Span]]:
    """(characters that parse, [(label, start, end)]) of the longest beginning of `source` that is a program.

    A document of a corpus may be cut anywhere: lines are dropped from the end, down to one that starts a top-level statement.
    ASCII only (columns of `ast` count bytes); `ValueError` otherwise. (0, []) when nothing parses.
    """
    if not source.isascii():
        raise ValueError("columns are bytes: only ASCII sources can be labelled")
    lines = source.splitlines(keepends=True)
    ends = [len(lines), *(number for number in range(len(lines) - 1, 0, -1) if lines[number][0] not in " \t\n\r#)]}'\"")]
    for end in ends[:20]:
        text = "".join(lines[:end])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes and comparisons in the source, which are not ours
                tree = ast.parse(text)
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (SyntaxError, ValueError, tokenize.TokenError):
            continue
        return len(text), _spans(text, tree, tokens)
    return 0, []


def _spans(text: str, tree: ast.Module, tokens: list[tokenize.TokenInfo]) -> list[Span]:
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    spans: list[Span] = []

    def add(label: str, first: tuple[int, int], last: tuple[int, int]) -> None:
        spans.append((LABELS.index(label), starts[first[0] - 1] + first[1], starts[last[0] - 1] + last[1]))

    def add_node(label: str, node: ast.expr | ast.stmt | ast.arg) -> None:
        assert node.end_lineno is not None and node.end_col_offset is not None
        add(label, (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))

    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                docstrings.add((first.value.lineno, first.value.col_offset))
                add_node("docstring", first)
        if isinstance(node, ast.arg):
            add("parameter", (node.lineno, node.col_offset), (node.lineno, node.col_offset + len(node.arg)))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                add_node("decorator", decorator)
        if isinstance(node, ast.Attribute) and node.end_lineno is not None and node.end_col_offset is not None:
            end = (node.end_lineno, node.end_col_offset)
            add("attribute", (end[0], end[1] - len(node.attr)), end)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            add_node("call", node.func)
        if isinstance(node, ast.Import | ast.ImportFrom):
            add_node("import", node)
    for place, token in enumerate(tokens):
        if token.type == tokenize.COMMENT:
            add("comment", token.start, token.end)
        elif token.type == tokenize.NUMBER:
            add("number", token.start, token.end)
        elif token.type == tokenize.STRING and token.start not in docstrings:
            add("string", token.start, token.end)
        elif token.type == tokenize.NAME and keyword.iskeyword(token.string):
            add("keyword", token.start, token.end)
        elif token.type == tokenize.NAME and place and tokens[place - 1].string in ("def", "class"):
            add("function name" if tokens[place - 1].string == "def" else "class name", token.start, token.end)
    return spans
