//! SASL to Kafka, with the real binary. The broker that `deploy/setup` installs has no users, so a proxy authenticates clients
//! before it forwards to the broker:
//! <https://kafka.apache.org/protocol#sasl_handshake>, RFC 4616 (PLAIN) and RFC 5802 (SCRAM).

use std::{net::Ipv4Addr, num::NonZeroU32, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::tls::{self, Proxy, SECRET, assert_refused, feed, posts};
use crate::support::{broker::Broker, service::Bench};

const USER: &str = "moodstream";
const SALT: &[u8] = b"salt of the test";
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).unwrap();

const SASL_HANDSHAKE: i16 = 17;
const API_VERSIONS: i16 = 18;
const SASL_AUTHENTICATE: i16 = 36;
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// Starts a proxy that forwards to the port `target` once a client has logged in as [`USER`] with [`SECRET`]. Returns its port.
async fn serve(target: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut client = client;
                let mut broker = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.ok()?;
                admit(&mut client, &mut broker).await?;
                copy_bidirectional(&mut client, &mut broker).await.ok()
            });
        }
    });
    port
}

async fn read_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let length = socket.read_i32().await.ok()?;
    let mut frame = vec![0; usize::try_from(length).ok()?];
    socket.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn write_frame(socket: &mut TcpStream, frame: &[u8]) -> Option<()> {
    socket.write_all(&sized(frame)).await.ok()
}

/// Prefixes bytes with their length, as the protocol's frames and fields do.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

/// Answers requests until the client has logged in. Returns `None` if it fails to, or requests anything else before.
async fn admit(client: &mut TcpStream, broker: &mut TcpStream) -> Option<()> {
    let mut exchange = None;
    loop {
        let request = read_frame(client).await?;
        let field = |at: usize| Some(i16::from_be_bytes(request.get(at..at + 2)?.try_into().ok()?));
        let (key, version, correlation) = (field(0)?, field(2)?, request.get(4..8)?);
        if key == API_VERSIONS {
            write_frame(broker, &request).await?;
            write_frame(client, &read_frame(broker).await?).await?;
            continue;
        }
        // The client id may be null.
        let body = request.get(10 + usize::try_from(field(8)?).unwrap_or(0)..)?;
        let mut answer = correlation.to_vec();
        let mut admitted = None;
        match (key, exchange.take()) {
            (SASL_HANDSHAKE, None) => {
                exchange = Exchange::of(body.get(2..)?);
                let error = if exchange.is_some() {
                    0
                } else {
                    UNSUPPORTED_SASL_MECHANISM
                };
                answer.extend(error.to_be_bytes());
                answer.extend(0_i32.to_be_bytes());
            }
            (SASL_AUTHENTICATE, Some(Exchange { mechanism, state })) => {
                let step = step(mechanism, state, body.get(4..)?);
                let (error, bytes) = match &step {
                    Some(Step::More(bytes, _) | Step::Done(bytes)) => (0, bytes.clone()),
                    None => (SASL_AUTHENTICATION_FAILED, Vec::new()),
                };
                answer.extend(i16::to_be_bytes(error));
                answer.extend((-1_i16).to_be_bytes());
                answer.extend(sized(&bytes));
                if version >= 1 {
                    answer.extend(0_i64.to_be_bytes());
                }
                match step {
                    Some(Step::More(_, state)) => exchange = Some(Exchange { mechanism, state }),
                    done => admitted = Some(done.is_some()),
                }
            }
            _ => return None,
        }
        write_frame(client, &answer).await?;
        match admitted {
            Some(true) => return Some(()),
            Some(false) => return None,
            None => {}
        }
    }
}

#[derive(Clone, Copy)]
enum Mechanism {
    Plain,
    Scram(pbkdf2::Algorithm, hmac::Algorithm),
}

struct Exchange {
    mechanism: Mechanism,
    /// The messages of both sides so far.
    state: String,
}

impl Exchange {
    fn of(mechanism: &[u8]) -> Option<Self> {
        let mechanism = match mechanism {
            b"PLAIN" => Mechanism::Plain,
            b"SCRAM-SHA-256" => Mechanism::Scram(pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256),
            b"SCRAM-SHA-512" => Mechanism::Scram(pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512),
            _ => return None,
        };
        Some(Self {
            mechanism,
            state: String::new(),
        })
    }
}

enum Step {
    More(Vec<u8>, String),
    Done(Vec<u8>),
}

/// Handles one message of the client. Returns `None` if it is not a valid login.
fn step(mechanism: Mechanism, state: String, message: &[u8]) -> Option<Step> {
    let message = std::str::from_utf8(message).ok()?;
    let Mechanism::Scram(derive, algorithm) = mechanism else {
        return (message == format!("\0{USER}\0{SECRET}")).then(|| Step::Done(Vec::new()));
    };
    if state.is_empty() {
        let bare = message.strip_prefix("n,,")?;
        let nonce = bare.strip_prefix(&format!("n={USER},r="))?;
        let first = format!("r={nonce}server,s={},i={ITERATIONS}", BASE64.encode(SALT));
        return Some(Step::More(first.clone().into_bytes(), format!("{bare},{first}")));
    }
    let (without_proof, proof) = message.rsplit_once(",p=")?;
    let nonce = state.split(",r=").nth(2)?.split(',').next()?;
    if without_proof != format!("c=biws,r={nonce}") {
        return None;
    }
    let auth_message = format!("{state},{without_proof}");
    let mut salted = vec![0; algorithm.digest_algorithm().output_len()];
    pbkdf2::derive(derive, ITERATIONS, SALT, SECRET.as_bytes(), &mut salted);
    let sign = |key: &[u8], what: &str| hmac::sign(&hmac::Key::new(algorithm, key), what.as_bytes());
    let stored = digest::digest(algorithm.digest_algorithm(), sign(&salted, "Client Key").as_ref());
    let signature = sign(stored.as_ref(), &auth_message);
    let proof = BASE64.decode(proof).ok()?;
    let client: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    if digest::digest(algorithm.digest_algorithm(), &client).as_ref() != stored.as_ref() {
        return None;
    }
    let server = sign(sign(&salted, "Server Key").as_ref(), &auth_message);
    Some(Step::Done(format!("v={}", BASE64.encode(server)).into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_logins_succeed_and_a_refused_one_is_reported_without_the_password() {
    let proxy = Proxy::bind();
    let bench = Bench::with_broker(Broker::start_behind(Some(proxy.port())));
    let ca = bench.write("ca.pem", &proxy.ca);
    // Within TLS, as PLAIN sends the password in clear text.
    proxy.serve(serve(bench.broker.port()).await, |socket| {
        std::future::ready(Some(socket))
    });
    let settings = |mechanism: &str, password: &str| -> PathBuf {
        let properties = format!(
            "\"security.protocol\" = \"sasl_ssl\"\n\"ssl.ca.location\" = {ca:?}\n\"sasl.mechanism\" = \"{mechanism}\"\n\
             \"sasl.username\" = \"{USER}\"\n\"sasl.password\" = \"{password}\"\n"
        );
        let name = format!("{mechanism}-{}.toml", password.len());
        bench.write(&name, format!("[kafka.properties]\n{properties}"))
    };
    let posts = bench.write("posts.jsonl", posts().join(&b'\n'));
    // A wrong password is a secret too.
    let wrong = SECRET.replace('2', "3") + "!";

    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let output = feed(&bench, mechanism, &settings(mechanism, SECRET), &posts);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = feed(&bench, mechanism, &settings(mechanism, &wrong), &posts);
        assert_refused(&output, &output.stderr, "refuses the login");
        assert!(!String::from_utf8_lossy(&output.stderr).contains(&wrong));
    }
    // The consumer, and the checks of the broker before it starts.
    let service = bench.service("SCRAM-SHA-512");
    let right = service.with_config(&settings("SCRAM-SHA-512", SECRET));
    let summary = right.run_until_caught_up();
    assert_eq!(summary["inserted"].as_u64(), Some(5), "{summary}");
    let refused = service.with_config(&settings("SCRAM-SHA-512", &wrong));
    let (output, last) = tls::run(&refused);
    assert_refused(&output, last.as_bytes(), "refuses the login");
    assert!(!String::from_utf8_lossy(&output.stderr).contains(&wrong));
}
