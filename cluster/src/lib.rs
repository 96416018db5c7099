#![forbid(unsafe_code)]
//! What every process of a cluster shares.

pub mod config;
pub mod services;
