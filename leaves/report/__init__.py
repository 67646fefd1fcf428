"""Execute the chapters with papermill, and render them into one page, the report."""

import sys

# jsonschema validates the notebooks. Without this entry it also builds a grammar of web addresses. That takes over a
# second, and no notebook needs the grammar.
sys.modules.setdefault("rfc3987_syntax", None)
