//! What SECURITY.md promises, tested as a black box.

mod http;
mod roles;
mod sasl;
mod secrets;
mod shipped;
mod tls;
