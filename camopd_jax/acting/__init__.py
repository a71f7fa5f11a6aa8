"""Given-circumstance acting after CoSER (arXiv 2502.09082): a model plays scenes, a judge finds flaws."""
