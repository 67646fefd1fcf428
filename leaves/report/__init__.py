"""Execute the chapters with papermill, and render them into one page, the report."""

import sys

# jsonschema, which validates the notebooks, takes over a second to build a grammar of web addresses if it can import
# this package. No notebook needs the grammar; the entry None makes the import fail, and jsonschema goes on without.
sys.modules.setdefault("rfc3987_syntax", None)
