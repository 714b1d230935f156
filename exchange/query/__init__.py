"""Questions, plans, the rule checker and the explanation. No input or output here."""
