//! Asks hosts over HTTP which version they run.
//!
//! One request with a deadline and no retry: the demo decides how long to keep asking.

use std::time::Duration;

use ureq::Agent;

/// How long a host on the same machine may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the service on `port` answers to `GET /version`, or the reason why it does not answer.
pub(super) async fn version(port: u16) -> Result<String, String> {
    let asked = tokio::task::spawn_blocking(move || {
        // A proxy from the environment knows nothing of this machine's loopback.
        let config = Agent::config_builder().proxy(None).timeout_global(Some(TIMEOUT)).build();
        let url = format!("http://127.0.0.1:{port}/version");
        let answer = Agent::new_with_config(config).get(&url).call();
        answer.and_then(|mut answer| answer.body_mut().read_to_string())
    });
    match asked.await {
        Ok(Ok(body)) => Ok(body.trim().to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn version_of_a_running_service_is_read() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let listening = demo_service::Listening { socket, is_shared: false };
        let identity = demo_service::Identity {
            version: "7".into(),
            host: "host-1".into(),
            build: "ab12".into(),
        };
        let behaviours = demo_service::Behaviours::default();
        let service = demo_service::Service { identity, behaviours };
        let service = tokio::spawn(demo_service::serve(listening, service, std::future::pending()));
        assert_eq!(version(port).await, Ok("7".into()));
        service.abort();
        assert!(service.await.unwrap_err().is_cancelled());
        assert!(version(port).await.is_err(), "nobody listens any more");
    }
}
