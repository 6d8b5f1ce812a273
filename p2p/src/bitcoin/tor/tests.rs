//! Against a Tor made by hand.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::bitcoin::net_addr::Net;

const SERVICE: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd";
const COOKIE: [u8; 32] = [7; 32];

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keyless-tor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Answers one connection by `auth`, then as Tor does; gives back what it was told.
async fn tor(listener: TcpListener, auth: String) -> Vec<String> {
    let (stream, _) = listener.accept().await.unwrap();
    let (input, mut output) = stream.into_split();
    let mut lines = BufReader::new(input).lines();
    let mut told = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let answer = match line.split(' ').next().unwrap() {
            "PROTOCOLINFO" => format!("250-PROTOCOLINFO 1\r\n250-AUTH {auth}\r\n250 OK\r\n"),
            "AUTHCHALLENGE" => {
                let nonce = HEXLOWER.decode(line.rsplit(' ').next().unwrap().as_bytes()).unwrap();
                let hash = reply::authenticator(SERVER_KEY, &[&COOKIE, &nonce, &[9; 32]]);
                format!(
                    "250 AUTHCHALLENGE SERVERHASH={} SERVERNONCE={}\r\n",
                    HEXLOWER.encode(&hash).to_uppercase(),
                    HEXLOWER.encode(&[9; 32])
                )
            }
            "GETINFO" => "250-net/listeners/socks=\"unix:/tor\" \"127.0.0.1:9150\"\r\n250 OK\r\n".to_owned(),
            "ADD_ONION" if line.contains("NEW:") => {
                format!("250-ServiceID={SERVICE}\r\n250-PrivateKey=ED25519-V3:c2VjcmV0\r\n250 OK\r\n")
            }
            "ADD_ONION" => format!("250-ServiceID={SERVICE}\r\n250 OK\r\n"),
            _ => "250 OK\r\n".to_owned(),
        };
        output.write_all(answer.as_bytes()).await.unwrap();
        told.push(line);
        if told.last().unwrap().starts_with("ADD_ONION") {
            break;
        }
    }
    told
}

/// What Tor was told, and what the owner was told of it until Tor hung up.
async fn talk(folder: &Folder, auth: &str, password: &str) -> (Vec<String>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control = TorControl {
        address: listener.local_addr().unwrap().to_string(),
        password: Password::new(password.to_owned()),
        key_file: folder.0.join("onion_v3_private_key"),
        target: "127.0.0.1:18445".parse().unwrap(),
        port: 18_444,
        asks_for_proxy: true,
        calls: true,
    };
    let tor = tokio::spawn(tor(listener, auth.to_owned()));
    let (events, mut heard) = mpsc::channel(8);
    let stream = TcpStream::connect(&control.address).await.unwrap();
    serve(&control, stream, &events).await;
    drop(events);
    let mut said = Vec::new();
    while let Some(event) = heard.recv().await {
        said.push(match event {
            SocketEvent::OnionProxy(address) => format!("proxy {address}"),
            SocketEvent::Reachable { address, up } => {
                assert_eq!((address.net(), address.port()), (Net::Onion, 18_444));
                if up { "up".to_owned() } else { "down".to_owned() }
            }
            other => panic!("{other:?}"),
        });
    }
    (tor.await.unwrap(), said)
}

#[tokio::test]
async fn a_service_is_made_once_and_then_kept_by_its_key() {
    let folder = Folder::new("kept");
    let (told, said) = talk(&folder, "METHODS=NULL", "").await;
    assert_eq!(told[1..3], ["AUTHENTICATE", "GETINFO net/listeners/socks"]);
    assert_eq!(told[3], "ADD_ONION NEW:ED25519-V3 PoWDefensesEnabled=1 Port=18444,127.0.0.1:18445");
    assert_eq!(said, ["proxy 127.0.0.1:9150", "up", "down"]);
    let (told, _) = talk(&folder, "METHODS=NULL", "").await;
    assert_eq!(told[3], "ADD_ONION ED25519-V3:c2VjcmV0 PoWDefensesEnabled=1 Port=18444,127.0.0.1:18445");
}

#[tokio::test]
async fn a_cookie_is_proven_and_never_told() {
    let folder = Folder::new("cookie");
    let file = folder.0.join("control_auth_cookie");
    std::fs::write(&file, COOKIE).unwrap();
    let auth = format!("METHODS=COOKIE,SAFECOOKIE COOKIEFILE=\"{}\"", file.display());
    let (told, said) = talk(&folder, &auth, "").await;
    let nonce = HEXLOWER.decode(told[1].rsplit(' ').next().unwrap().as_bytes()).unwrap();
    let proof = reply::authenticator(CLIENT_KEY, &[&COOKIE, &nonce, &[9; 32]]);
    assert_eq!(told[2], format!("AUTHENTICATE {}", HEXLOWER.encode(&proof)));
    assert_eq!(said.len(), 3);
    // A Tor that does not know the cookie learns nothing.
    std::fs::write(&file, [8_u8; 32]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let liar = tokio::spawn(tor(listener, auth));
    let mut talk = Conversation::new(TcpStream::connect(address).await.unwrap());
    let refused = answer_challenge(&file.display().to_string(), &mut talk).await;
    assert!(matches!(refused, Err(TorError::ServerHash)));
    drop(talk);
    assert_eq!(liar.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_password_is_quoted_and_stays_out_of_what_is_printed() {
    let folder = Folder::new("password");
    let (told, _) = talk(&folder, "METHODS=NULL,HASHEDPASSWORD", "a\"b").await;
    assert_eq!(told[1], "AUTHENTICATE \"a\\\"b\"");
    assert_eq!(format!("{:?}", Password::new("a".to_owned())), "<redacted>");
}
