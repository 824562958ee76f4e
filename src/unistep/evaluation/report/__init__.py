"""An evaluation as one HTML page that needs nothing else: tables, plots, crops of kept pictures."""
