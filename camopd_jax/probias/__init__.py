"""ProBias (arXiv 2511.09559): long-tail ICD coding with a directed graph from common to rare codes."""
