//! The HTTP server: the live page, `/metrics`, `/live` and `/ready`.

pub mod connections;
mod options;
pub mod page;
pub mod server;

pub use self::options::{HttpOptions, PageContent};
