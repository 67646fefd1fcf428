"""The report: chapters executed by papermill and rendered into one page."""

import sys

# jsonschema, which checks notebooks, would build a grammar of web addresses for over a second; notebooks have none.
sys.modules.setdefault("rfc3987_syntax", None)
