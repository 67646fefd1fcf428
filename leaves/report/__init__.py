"""Execute the chapters with papermill, and render them into one page, the report."""

import sys

# Without this entry jsonschema, which validates notebooks, builds a grammar of web addresses, which is not needed here
# and takes over a second.
sys.modules.setdefault("rfc3987_syntax", None)
