"""DistractionIF as a task of lm-evaluation-harness: give this directory as --include_path."""
