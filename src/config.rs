//! Settings: file, environment and flags, checked before work starts.
