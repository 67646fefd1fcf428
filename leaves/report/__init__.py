"""Execute the chapters with papermill, and render them into one page, the report."""

import sys

# jsonschema, which validates the notebooks, builds a grammar of web addresses if it can import rfc3987_syntax. That
# takes over a second, and no notebook needs it. The entry None makes the import fail, so no grammar is built.
sys.modules.setdefault("rfc3987_syntax", None)
