//! HTTP as a backend speaks it: requests one after the other on a connection that stays.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 503 …
    pub status: u16,
    /// What stands in it.
    pub body: String,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// Nothing was written: there was no connection.
    NotSent(String),
    /// It was written, wholly or in part: it may have been carried out.
    Unknown(String),
}

/// A connection to one address, made when it is needed.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Http {
    /// Without a connection yet.
    pub fn new(address: SocketAddr) -> Http {
        Http { address, stream: None }
    }

    /// Asks, and waits at most `limit` for the whole answer; without one the connection is given up.
    ///
    /// # Errors
    /// [`NoAnswer`], which says whether the request can have had an effect.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        body: &str,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect(limit).await?,
        };
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = timeout(limit, async {
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            read_answer(&mut stream).await
        });
        match answer.await {
            Ok(Ok(answer)) => {
                self.stream = Some(stream);
                Ok(answer)
            }
            Ok(Err(why)) => Err(NoAnswer::Unknown(why)),
            Err(_) => Err(NoAnswer::Unknown(format!("no answer within {limit:?}"))),
        }
    }

    async fn connect(&self, limit: Duration) -> Result<TcpStream, NoAnswer> {
        match timeout(limit, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => {
                // Only a matter of speed.
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(NoAnswer::NotSent(error.to_string())),
            Err(_) => Err(NoAnswer::NotSent(format!("no connection within {limit:?}"))),
        }
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// There was no answer in time; the words say why.
pub async fn get(address: SocketAddr, target: &str, limit: Duration) -> Result<Answer, String> {
    let answer = Http::new(address).ask("GET", target, "", limit).await;
    answer.map_err(|(NoAnswer::NotSent(why) | NoAnswer::Unknown(why))| why)
}

async fn read_answer(stream: &mut TcpStream) -> Result<Answer, String> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(stream, &mut bytes).await?;
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = head + length.ok_or("an answer without a length")?;
    while bytes.len() < whole {
        read_more(stream, &mut bytes).await?;
    }
    Ok(Answer { status, body: String::from_utf8_lossy(&bytes[head..whole]).into_owned() })
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(bytes).await {
        Ok(0) => Err("the connection ended".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
