//! Protects against web pages of other hosts. A browser lets any page send requests to any address, even to loopback.
//! And if a name of the page's owner leads there (DNS rebinding), the page may read the answers as well.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    http::{
        HeaderMap, Request, StatusCode, header,
        header::{HOST, ORIGIN},
    },
    response::{IntoResponse, Response},
};

use super::metrics;

/// Which requests a server accepts.
#[derive(Clone, Debug)]
pub enum Guard {
    /// All requests, since a token says who may ask.
    Token,
    /// All requests except those of web pages of other hosts. On a loopback address the host in the request must be an
    /// address, a name without a dot, a name below `.localhost`, or one of these names. Any other name may be
    /// anybody's.
    Pages(Arc<[String]>),
}

impl Guard {
    /// Refuses pages of other hosts. `names` are further names of this machine.
    pub fn pages(names: impl IntoIterator<Item = String>) -> Guard {
        Guard::Pages(names.into_iter().filter(|name| !name.is_empty()).collect())
    }

    /// The answer to a request that is refused; none if it is not. `local` is the address of ours to which it came.
    pub(super) fn refuse<B>(&self, local: IpAddr, request: &Request<B>) -> Option<Response> {
        let Guard::Pages(names) = self else { return None };
        let host = match request.uri().host() {
            Some(host) => host,
            None => without_port(text(request.headers(), HOST).unwrap_or_default()),
        };
        let why = if local.to_canonical().is_loopback() && !is_ours(host, names) {
            "the host asked for is none of this machine's: use an address or localhost, or set a push token"
        } else if is_foreign(request.headers(), host) {
            "a web page of another host may not ask: set a push token and let a backend ask"
        } else {
            return None;
        };
        metrics::count_foreign();
        let body = Body::from(format!(r#"{{"code":-403,"message":"{why}"}}"#));
        let json = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
        Some((StatusCode::FORBIDDEN, json, body).into_response())
    }
}

/// Whether a browser says that a page of another host asks.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    headers.get_all(ORIGIN).iter().any(|origin| {
        let page = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        // "null" stands for a file, or for a frame that may not say where it is from.
        page.is_none_or(|(_, authority)| !without_port(authority).eq_ignore_ascii_case(host))
    })
}

/// Whether this name may lead to a loopback address. It is empty in HTTP/1.0.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    let is_local = name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"));
    // Public names have a dot.
    is_address || is_local || !name.contains('.') || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// `host` of `host:port`; an IPv6 address stands in brackets.
fn without_port(authority: &str) -> &str {
    let end =
        if authority.starts_with('[') { authority.find(']').map(|at| at + 1) } else { authority.find(':') };
    &authority[..end.unwrap_or(authority.len())]
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(local: &str, headers: &[(&str, &str)]) -> bool {
        let guard = Guard::pages(["push.shop.example".to_owned(), String::new()]);
        let request =
            headers.iter().fold(Request::post("/goim/push/all"), |r, (name, value)| r.header(*name, *value));
        guard.refuse(local.parse().unwrap(), &request.body(()).unwrap()).is_none()
    }

    #[test]
    fn backends_pass_and_pages_of_others_do_not() {
        for (headers, right) in [
            (&[("host", "127.0.0.1:3111")][..], true),
            (&[("host", "127.0.0.1:3111"), ("origin", "http://127.0.0.1:3111")], true),
            (&[("host", "[::1]:3111"), ("origin", "http://[::1]:3111")], true),
            (&[("host", "Localhost:3111"), ("origin", "http://localhost:3111")], true),
            (&[("host", "push.shop.example"), ("origin", "https://push.shop.example")], true),
            (&[("host", "127.0.0.1:3111"), ("origin", "http://evil.example")], false),
            (&[("host", "127.0.0.1:3111"), ("origin", "http://127.0.0.1.evil.example:3111")], false),
            (&[("host", "127.0.0.1:3111"), ("origin", "null")], false),
            (&[("host", "127.0.0.1:3111"), ("origin", "")], false),
            (
                &[("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")],
                false,
            ),
        ] {
            assert_eq!(passes("127.0.0.1", headers), right, "{headers:?}");
        }
    }

    #[test]
    fn a_name_of_somebody_else_does_not_lead_to_loopback() {
        for (host, right) in [
            ("localhost", true),
            ("halley.localhost:3111", true),
            ("halley:3111", true),
            ("x", true),
            ("push.shop.example:3111", true),
            ("evil.example", false),
            ("evil.example.:3111", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
        ] {
            assert_eq!(passes("127.0.0.1", &[("host", host)]), right, "{host}");
            // There it is the operator who said that it is open.
            assert!(passes("192.0.2.1", &[("host", host)]), "{host}");
            // A page that its own rebound name led here is of the same host, and refused for the name.
            let origin = format!("http://{host}");
            assert_eq!(passes("::1", &[("host", host), ("origin", &origin)]), right, "{host}");
        }
        assert!(passes("127.0.0.1", &[]), "HTTP/1.0");
        let token = Request::post("/").header("origin", "http://evil.example").body(()).unwrap();
        assert!(Guard::Token.refuse([127, 0, 0, 1].into(), &token).is_none());
    }
}
