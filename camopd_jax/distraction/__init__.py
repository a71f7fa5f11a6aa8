"""DistractionIF (arXiv 2605.29491): does a model obey instructions that are only data in its reference text?"""
