//! The stages joined; shutdown.
