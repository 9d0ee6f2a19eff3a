"""Making a model elastic: importance, elastic continued training, routers."""
