"""The report: chapters executed by papermill and rendered into one page."""

import sys

# jsonschema, which validates notebooks, would take over a second to build a grammar of web addresses, unused here.
sys.modules.setdefault("rfc3987_syntax", None)
