"""What the lessons show beside their subject: the figures of single notebooks, tables, exercises."""
