//! What the Keycloak client makes of servers that are none, that are broken, or that mean harm: a clear error that
//! names what to do, within limits, and no secret in it.

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use essaim::identity::keycloak::{Keycloak, KeycloakOptions};
use essaim::identity::{IdentityProvider, Lookup, ProviderError, ProviderId, Refusal, WantedUser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use scripted::{Asked, Done, Scripted, answer, json, self_signed, token};

const SECRET: &str = "s3cret-of-ours";

fn options(url: &str) -> KeycloakOptions {
    KeycloakOptions::new(url, "essaim", "essaim", SECRET)
}

fn keycloak(server: &Scripted) -> Keycloak {
    Keycloak::new(options(&server.url)).unwrap()
}

/// One that waits for no answer longer than a test may last.
fn impatient(server: &Scripted) -> Keycloak {
    let options = KeycloakOptions { request_timeout: Duration::from_millis(300), ..options(&server.url) };
    Keycloak::new(options).unwrap()
}

fn ada() -> WantedUser {
    WantedUser {
        user_id: Uuid::from_u128(1),
        version: 1,
        username: "ada".into(),
        email: "ada@example.org".into(),
        email_verified: false,
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        organization_id: Uuid::from_u128(2),
        roles: vec![],
        enabled: true,
    }
}

/// Grants tokens, finds nobody, and answers everything that writes as said.
async fn writes_meet(done: Done) -> Scripted {
    Scripted::start(move |asked| match asked.method.as_str() {
        _ if asked.is_for_token() => token(),
        "GET" => nobody(asked),
        _ => done.clone(),
    })
    .await
}

/// What a realm answers that keeps attributes and has no accounts.
fn nobody(asked: &Asked) -> Done {
    let profile = asked.path.ends_with("/profile");
    json("200 OK", if profile { r#"{"unmanagedAttributePolicy": "ADMIN_EDIT"}"# } else { "[]" })
}

/// Grants tokens, and answers everything else as said.
async fn all_meet(done: Done) -> Scripted {
    Scripted::start(move |asked| if asked.is_for_token() { token() } else { done.clone() }).await
}

async fn put(keycloak: &Keycloak) -> ProviderError {
    keycloak.put(&ada(), None).await.unwrap_err()
}

#[track_caller]
fn configuration(error: &ProviderError, says: &str) {
    assert!(matches!(error, ProviderError::Configuration { detail } if detail.contains(says)), "{says:?} in {error:?}");
}

#[tokio::test]
async fn a_body_without_end_is_read_to_one_mebibyte() {
    let gigabyte = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1073741824\r\n\r\n[";
    let endless = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[";
    for head in [gigabyte, endless] {
        let body = Done::SayForEver(head.into());
        let everywhere = body.clone();
        let for_tokens = Scripted::start(move |_| everywhere.clone()).await;
        let for_users = all_meet(body).await;

        for server in [for_tokens, for_users] {
            configuration(&put(&keycloak(&server)).await, "more than 1 MiB");
            // What lies in the sockets' buffers was written, too.
            assert!(server.written() < 16 << 20, "{}", server.written());
        }
    }
}

#[tokio::test]
async fn a_redirect_is_named_and_never_followed() {
    let elsewhere = Scripted::start(|_| token()).await;
    let location = format!("location: {}/login\r\n", elsewhere.url);
    let (for_tokens, for_users) = (location.clone(), location);
    let servers = [
        Scripted::start(move |_| answer("302 Found", &for_tokens, "")).await,
        all_meet(answer("307 Temporary Redirect", &for_users, "")).await,
    ];

    for server in &servers {
        configuration(
            &put(&keycloak(server)).await,
            &format!("to {}/login, and redirects are not followed", elsewhere.url),
        );
    }

    assert_eq!(elsewhere.count(|_| true), 0, "nobody else sees the secret");
}

#[tokio::test]
async fn an_address_that_is_no_keycloak_is_named_as_such() {
    let page = "<html>Welcome to our intranet</html>";
    let answers = [
        answer("200 OK", "content-type: text/html\r\n", page),
        json("200 OK", r#"{"access_token": 5}"#),
        json("200 OK", r#"{"access_token": "a\nb", "expires_in": 60, "token_type": "Bearer"}"#),
        json("200 OK", r#"{"access_token": "a", "expires_in": 60, "token_type": "mac"}"#),
        json("200 OK", r#"{"access_token": "a", "expires_in": "#),
        answer("404 Not Found", "", page),
        answer("405 Method Not Allowed", "", ""),
    ];
    for done in answers {
        let server = Scripted::start(move |_| done.clone()).await;

        configuration(&put(&keycloak(&server)).await, "not as");
        let checks = keycloak(&server).check().await;
        assert!(checks.len() == 1 && checks[0].name == "reached" && !checks[0].ok, "{checks:?}");
    }
}

#[tokio::test]
async fn answers_that_are_not_keycloaks_are_a_fault_of_the_set_up_and_of_no_user() {
    let broken = [r#"[{"id": "#, r#"{"items": []}"#, "[5]", r#"[{"attributes": {"a": 5}}]"#, "", "\u{0}"];
    for body in broken {
        let server = all_meet(json("200 OK", body)).await;
        configuration(&put(&keycloak(&server)).await, "correct the address");
    }
    // A 400 of something in front of Keycloak is no verdict on a user.
    let server = writes_meet(answer("400 Bad Request", "", "<html>")).await;
    configuration(&put(&keycloak(&server)).await, "correct the address");
}

#[tokio::test]
async fn a_page_not_found_in_front_of_keycloak_is_not_an_account_that_is_gone() {
    let server = all_meet(answer("404 Not Found", "content-type: text/html\r\n", "<html>no route</html>")).await;
    let known = ProviderId("a-known-one".into());

    let error = keycloak(&server).put(&ada(), Some(&known)).await.unwrap_err();

    configuration(&error, "404");
    assert_eq!(server.count(|asked| asked.method != "GET" && !asked.is_for_token()), 0, "nothing was created");
}

#[tokio::test]
async fn a_provider_that_asks_to_wait_is_waited_for_as_long_as_it_says() {
    let wait = |status: &str| answer(status, "retry-after: 7\r\n", "");
    let seven = Some(Duration::from_secs(7));
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let users = all_meet(wait(status)).await;
        let writes = writes_meet(wait(status)).await;
        let done = wait(status);
        let tokens = Scripted::start(move |_| done.clone()).await;

        for server in [users, writes] {
            let error = put(&keycloak(&server)).await;
            assert!(
                matches!(error, ProviderError::RetryLater { retry_after, .. } if retry_after == seven),
                "{error:?}"
            );
        }
        let error = put(&keycloak(&tokens)).await;
        assert!(matches!(error, ProviderError::Unavailable { retry_after, .. } if retry_after == seven), "{error:?}");
    }
}

#[tokio::test]
async fn a_fault_of_the_server_is_to_be_repeated_when_it_read_and_unknown_when_it_may_have_written() {
    for status in ["500 Internal Server Error", "502 Bad Gateway", "504 Gateway Timeout"] {
        let reads = put(&keycloak(&all_meet(answer(status, "", "<html>")).await)).await;
        let writes = put(&keycloak(&writes_meet(answer(status, "", "<html>")).await)).await;

        assert!(matches!(reads, ProviderError::RetryLater { .. }), "{reads:?}");
        assert!(matches!(writes, ProviderError::OutcomeUnknown { .. }), "{writes:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_or_late_leaves_a_write_unknown_and_a_read_not_done() {
    let half = b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\nx".to_vec();
    for done in
        [Done::Close, Done::Hang(vec![]), Done::Hang(half.clone()), Done::Say(half), Done::Say(b"SSH-2.0\r\n".to_vec())]
    {
        let reads = put(&impatient(&all_meet(done.clone()).await)).await;
        let writes = put(&impatient(&writes_meet(done.clone()).await)).await;
        let all = done.clone();
        let tokens = put(&impatient(&Scripted::start(move |_| all.clone()).await)).await;

        assert!(matches!(reads, ProviderError::Unavailable { .. }), "{done:?}: {reads:?}");
        assert!(matches!(writes, ProviderError::OutcomeUnknown { .. }), "{done:?}: {writes:?}");
        assert!(matches!(tokens, ProviderError::Unavailable { .. }), "{done:?}: {tokens:?}");
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_unavailable() {
    let gone = Scripted::start(|_| Done::Close).await.url.clone();
    let keycloak = Keycloak::new(options(&gone)).unwrap();

    let error = put(&keycloak).await;

    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    assert!(!error.to_string().contains(&gone), "{error}");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_a_fault_of_the_set_up_until_it_is_named() {
    let (tls, certificate) = self_signed();
    let server =
        Scripted::start_tls(tls, |asked| if asked.is_for_token() { token() } else { json("200 OK", "[]") }).await;

    let stranger = keycloak(&server).read(Lookup::Username("ada")).await.unwrap_err();
    let trusting = KeycloakOptions { certificates: Some(certificate.into_bytes()), ..options(&server.url) };
    let known = Keycloak::new(trusting).unwrap().read(Lookup::Username("ada")).await;

    configuration(&stranger, "certificate");
    assert_eq!(known, Ok(None));
    assert_eq!(server.count(Asked::is_for_token), 1, "nothing was sent to the stranger");
}

#[tokio::test]
async fn https_with_a_server_that_speaks_none_is_a_fault_of_the_set_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        // Closing with unread input would reset the connection before this is read.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });

    configuration(&put(&Keycloak::new(options(&url)).unwrap()).await, "no TLS with it");
}

#[tokio::test]
async fn http_beyond_this_machine_and_certificates_that_are_none_are_refused_before_anything_is_sent() {
    let plain = Keycloak::new(options("http://id.example.org")).unwrap_err();
    let allowed = KeycloakOptions { allow_plain_http: true, ..options("http://id.example.org") };
    let junk =
        KeycloakOptions { certificates: Some(b"-----BEGIN CERTIFICATE-----\n?".to_vec()), ..options("https://x") };

    configuration(&plain, "use https");
    assert!(Keycloak::new(allowed).is_ok());
    configuration(&Keycloak::new(junk).unwrap_err(), "no PEM");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let refusals = AtomicU32::new(0);
    let once = Scripted::start(move |asked| match asked.method.as_str() {
        _ if asked.is_for_token() => token(),
        _ if refusals.fetch_add(1, Ordering::Relaxed) == 0 => json("401 Unauthorized", r#"{"error":"HTTP 401"}"#),
        _ => json("200 OK", "[]"),
    })
    .await;
    let always = all_meet(json("401 Unauthorized", r#"{"error":"HTTP 401 Unauthorized"}"#)).await;

    let recovered = keycloak(&once).read(Lookup::Username("ada")).await;
    let refused = keycloak(&always).read(Lookup::Username("ada")).await.unwrap_err();

    assert_eq!(recovered, Ok(None));
    assert_eq!(once.count(Asked::is_for_token), 2);
    configuration(&refused, "refused again");
    assert_eq!((always.count(Asked::is_for_token), always.count(|_| true)), (2, 4));
}

#[tokio::test]
async fn no_error_repeats_our_secret_or_our_token() {
    let echo = |asked: &Asked| {
        let sent = asked.text.replace(['\r', '\n', '"', '\\'], " ");
        json("400 Bad Request", &format!(r#"{{"error":"bad","error_description":"you sent {sent}"}}"#))
    };
    let token_echo = Scripted::start(echo).await;
    let user_echo = Scripted::start(move |asked| if asked.is_for_token() { token() } else { echo(asked) }).await;
    let location = format!("location: https://elsewhere.example/?s={SECRET}\r\n");
    let redirects = Scripted::start(move |_| answer("302 Found", &location, "")).await;

    for server in [token_echo, user_echo, redirects] {
        let keycloak = keycloak(&server);
        let error = put(&keycloak).await;
        let checks = keycloak.check().await;
        let shown = format!("{error} {error:?} {checks:?} {keycloak:?} {:?}", options(&server.url));
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(!shown.contains("token-1f7c9e"), "{shown}");
    }
}

/// While one request is under way another one's token is refused, and replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_error_does_not_repeat_the_token_that_was_sent_when_another_is_in_force_by_now() {
    let (go_on, waiting) = std::sync::mpsc::channel();
    let (granted, waiting) = (AtomicU32::new(0), std::sync::Mutex::new(waiting));
    let server = Scripted::start(move |asked| match asked.text.split("Bearer ").nth(1) {
        None => {
            let n = granted.fetch_add(1, Ordering::Relaxed);
            json("200 OK", &format!(r#"{{"access_token":"granted-{n}","expires_in":60,"token_type":"Bearer"}}"#))
        }
        Some(_) if asked.path.contains("ada") => {
            // Hands the thread's other tasks over; what this one woke last would wait with it for ever.
            tokio::task::block_in_place(|| waiting.lock().unwrap().recv().unwrap());
            let sent = asked.text.replace(['\r', '\n'], " ");
            let sent = &sent[sent.find("Bearer").unwrap()..];
            json("400 Bad Request", &format!(r#"{{"error":"you sent {sent}"}}"#))
        }
        Some(token) if token.starts_with("granted-0") => json("401 Unauthorized", r#"{"error":"HTTP 401"}"#),
        Some(_) => json("200 OK", "[]"),
    })
    .await;
    let keycloak = Arc::new(keycloak(&server));
    let first = tokio::spawn({
        let keycloak = Arc::clone(&keycloak);
        async move { keycloak.read(Lookup::Username("ada")).await.unwrap_err() }
    });
    while server.count(Asked::is_for_token) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(keycloak.read(Lookup::Username("bob")).await, Ok(None));
    assert_eq!(server.count(Asked::is_for_token), 2);
    go_on.send(()).unwrap();

    let error = first.await.unwrap().to_string();

    assert!(error.contains("you sent Bearer [token]") && !error.contains("granted"), "{error}");
}

#[tokio::test]
async fn a_creation_whose_location_is_none_is_looked_up_by_our_id() {
    let ours =
        format!(r#"[{{"id":"found-1","username":"ada","attributes":{{"essaim_user_id":["{}"]}}}}]"#, ada().user_id);
    for location in ["", "location: ../../x?y\r\n", "location: /users/\r\n"] {
        let (created, ours) = (AtomicU32::new(0), ours.clone());
        let server = Scripted::start(move |asked| match asked.method.as_str() {
            _ if asked.is_for_token() => token(),
            "POST" => {
                created.fetch_add(1, Ordering::Relaxed);
                answer("201 Created", location, "")
            }
            _ if created.load(Ordering::Relaxed) > 0 => json("200 OK", &ours),
            _ => nobody(asked),
        })
        .await;

        assert_eq!(keycloak(&server).put(&ada(), None).await, Ok(ProviderId("found-1".into())), "{location}");
    }
}

#[tokio::test]
async fn a_server_that_ignores_what_is_searched_for_makes_us_adopt_nobody() {
    let everybody =
        r#"[{"id":"1","username":"root","attributes":{"essaim_user_id":["00000000-0000-0000-0000-0000000000ff"]}}]"#;
    let server = Scripted::start(move |asked| match asked.method.as_str() {
        _ if asked.is_for_token() => token(),
        "GET" if asked.path.ends_with("/profile") => nobody(asked),
        "GET" => json("200 OK", everybody),
        "POST" => json("409 Conflict", r#"{"errorMessage":"User exists with same username"}"#),
        _ => answer("204 No Content", "", ""),
    })
    .await;

    let error = put(&keycloak(&server)).await;

    assert!(matches!(error, ProviderError::RetryLater { .. }), "{error:?}");
    assert_eq!(keycloak(&server).read(Lookup::Username("ada")).await, Ok(None));
    assert_eq!(keycloak(&server).read(Lookup::User(ada().user_id)).await, Ok(None));
    assert_eq!(keycloak(&server).delete(ada().user_id, None).await, Ok(()));
    assert_eq!(server.count(|asked| asked.method == "PUT" || asked.method == "DELETE"), 0);
}

#[tokio::test]
async fn events_that_do_not_come_oldest_first_are_not_taken() {
    let newest_first =
        r#"[{"id":"b","time":2,"type":"LOGIN","userId":"u"},{"id":"a","time":1,"type":"LOGIN","userId":"u"}]"#;
    let server = all_meet(json("200 OK", newest_first)).await;

    configuration(&keycloak(&server).events(None, 10).await.unwrap_err(), "26.2 or newer");
}

#[tokio::test]
async fn a_server_that_answers_the_same_full_page_for_ever_is_asked_a_few_times_only() {
    let event = |n: usize| format!(r#"{{"id":"{n}","time":1,"type":"LOGIN","userId":"u"}}"#);
    let page = format!("[{}]", (0..200).map(event).collect::<Vec<_>>().join(","));
    let server = all_meet(json("200 OK", &page)).await;
    let keycloak = keycloak(&server);
    let first = keycloak.events(None, 200).await.unwrap();

    let error = keycloak.events(first.next.as_ref(), 200).await.unwrap_err();

    assert_eq!(first.events.len(), 200);
    configuration(&error, "again and again");
    assert!(server.count(|_| true) < 10);
}

#[tokio::test]
async fn what_a_user_is_refused_for_is_told_without_the_values() {
    let server = writes_meet(json(
        "400 Bad Request",
        r#"{"field":"email","errorMessage":"error-invalid-email","params":["email","ada@example.org"]}"#,
    ))
    .await;

    let error = put(&keycloak(&server)).await;

    let detail = "Keycloak refuses it (email: error-invalid-email): change the user's email, or what the realm takes \
        (Realm settings > User profile), and retry";
    assert_eq!(error, ProviderError::Permanent { reason: Refusal::InvalidUser, detail: detail.into() });
}
