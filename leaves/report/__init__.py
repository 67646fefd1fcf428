"""The report: chapters executed by papermill and rendered into one page."""
