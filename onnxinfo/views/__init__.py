"""What people look at: queries, plots."""
