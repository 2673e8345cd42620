//! Which posts are wanted: languages and tracked topics.
