"""From a configuration to a run folder with records: what the command line's verbs do, one file for each job."""
