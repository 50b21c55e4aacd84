"""Views of archives: queries, comparisons, plots, reports and annotated models."""
