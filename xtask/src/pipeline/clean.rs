//! Phase 7: clean up, always; keep what explains a failure: logs of every container first.
