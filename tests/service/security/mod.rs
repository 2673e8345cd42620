//! What SECURITY.md promises, black-box.

mod http;
mod roles;
mod sasl;
mod secrets;
mod shipped;
mod tls;
