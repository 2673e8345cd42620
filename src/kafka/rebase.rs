//! Moving a recording in time.
