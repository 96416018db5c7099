//! Headers of the PROXY protocol, written by hand as proxies send them.

use std::net::IpAddr;

/// The first bytes of version 2.
pub const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 1, a client with this address.
pub fn v1(client: IpAddr) -> Vec<u8> {
    let (family, server) = if client.is_ipv4() { ("TCP4", "192.0.2.9") } else { ("TCP6", "2001:db8::9") };
    format!("PROXY {family} {client} {server} 56324 443\r\n").into_bytes()
}

/// Version 2, the byte of command and version, that of family and protocol, and what follows the fixed part.
pub fn v2_of(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("a length of two bytes");
    [V2_SIGNATURE, &[command, family], &len.to_be_bytes(), body].concat()
}

/// Version 2, a client with this address, and what else the proxy tells of it.
pub fn v2(client: IpAddr, more: &[u8]) -> Vec<u8> {
    let ports = [56324_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat();
    match client {
        IpAddr::V4(client) => {
            v2_of(0x21, 0x11, &[&client.octets()[..], &[192, 0, 2, 9], &ports, more].concat())
        }
        IpAddr::V6(client) => v2_of(0x21, 0x21, &[&client.octets()[..], &[9; 16], &ports, more].concat()),
    }
}

/// Version 2 of a connection of the proxy's own.
pub fn v2_local() -> Vec<u8> {
    v2_of(0x20, 0x00, &[])
}
