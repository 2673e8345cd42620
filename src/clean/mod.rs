//! Cleaning profiles.
