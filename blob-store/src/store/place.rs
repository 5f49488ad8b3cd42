//! Which kind of store a name means, and the client for it.
//!
//! Credentials come from where users of these stores keep them: the environment (`AWS_*`,
//! `GOOGLE_*`, `AZURE_*`), the machine's own role, workload identity. Settings that the caller
//! gives come before the environment. Invariant: the clients neither bound the time of a request
//! nor try again by themselves; both is done in [`retry`](super::retry), by what came.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::error::StoreError;
use super::{Access, OpenOptions};

/// A store's answer to a connection. Half of it would give up on a way around the world that lost
/// two packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which kind of store it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Folder,
    /// S3, Google or Azure.
    Bucket,
    /// A plain web server.
    Web,
}

/// A store's clients.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// For uploads that outlive a process; `None` where the store has none.
    pub(crate) parts: Option<Arc<dyn MultipartStore>>,
    /// What all keys begin with.
    pub(crate) base: Path,
    /// The folder, if it is one.
    pub(crate) folder: Option<PathBuf>,
}

/// Makes the clients for `url`.
pub(crate) fn open(url: &str, options: &OpenOptions) -> Result<Place, StoreError> {
    let bad = |reason| StoreError::Url { url: url.to_owned(), reason };
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url.is_empty() {
            Err(bad("it is empty"))
        } else {
            open_folder(FilePath::new(url), options)
        };
    };
    if scheme == "file" {
        let is_absolute = rest.starts_with('/');
        let path = percent_decoded(rest).filter(|_| is_absolute);
        let path = path.ok_or_else(|| bad("file:// needs an absolute path"))?;
        return open_folder(&path, options);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() {
        return Err(bad("the bucket or host is missing"));
    }
    let base = Path::from_url_path(path).ok().ok_or_else(|| bad("its path is not one"))?;
    let root = format!("{scheme}://{authority}");
    let setup = |source: object_store::Error| StoreError::Setup {
        store: display(url),
        source: source.into(),
    };
    let place = match scheme {
        "s3" | "s3a" => s3(&root, base, options).map_err(setup),
        "gs" => google(&root, base, options).map_err(setup),
        "az" | "azure" | "abfs" | "abfss" => azure(&root, base, options).map_err(setup),
        "http" | "https" => web(url).map_err(setup),
        _ => Err(bad("its scheme is unknown")),
    }?;
    if place.kind == Kind::Web && options.access == Access::Write {
        return Err(StoreError::ReadOnly { store: display(url) });
    }
    Ok(place)
}

/// The store's name without a password.
pub(crate) fn display(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(a, p)| (a, Some(p)));
    // Azure has the container before the `@`, which is no secret; a password has a colon before it.
    let shown = match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => host,
        _ => authority,
    };
    let path = path.map(|path| format!("/{}", path.split('?').next().unwrap_or_default()));
    format!("{scheme}://{shown}{}", path.unwrap_or_default())
}

fn percent_decoded(text: &str) -> Option<PathBuf> {
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

fn open_folder(path: &FilePath, options: &OpenOptions) -> Result<Place, StoreError> {
    let failed = |source| StoreError::Folder { path: path.to_owned(), source };
    if options.access == Access::Write {
        disk::create_dir_all_synced(path).map_err(failed)?;
    }
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    let store = LocalFileSystem::new_with_prefix(path);
    let store = store.map_err(|source| StoreError::Setup {
        store: path.display().to_string(),
        source: source.into(),
    })?;
    Ok(Place {
        kind: Kind::Folder,
        // What is there after `publish` returned is there after a power cut.
        objects: Arc::new(store.with_fsync(true)),
        parts: None,
        base: Path::default(),
        folder: Some(path.to_owned()),
    })
}

fn client() -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT)
}

fn no_retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::from_secs(1),
    }
}

fn s3(root: &str, base: Path, options: &OpenOptions) -> object_store::Result<Place> {
    let mut builder = AmazonS3Builder::from_env();
    builder = builder.with_url(root);
    for (name, value) in &options.settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
    }
    let allows_http =
        is_plain_http(builder.get_config_value(&object_store::aws::AmazonS3ConfigKey::Endpoint));
    let client = client().with_allow_http(allows_http);
    let store = Arc::new(builder.with_client_options(client).with_retry(no_retry()).build()?);
    Ok(Place { kind: Kind::Bucket, objects: store.clone(), parts: Some(store), base, folder: None })
}

/// Who names an endpoint without encryption wants it: it is a server of his own, on his own net.
fn is_plain_http(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn google(root: &str, base: Path, options: &OpenOptions) -> object_store::Result<Place> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_url(root);
    for (name, value) in &options.settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
    }
    let store = Arc::new(builder.with_client_options(client()).with_retry(no_retry()).build()?);
    Ok(Place { kind: Kind::Bucket, objects: store.clone(), parts: Some(store), base, folder: None })
}

fn azure(root: &str, base: Path, options: &OpenOptions) -> object_store::Result<Place> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(root);
    for (name, value) in &options.settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
    }
    let endpoint = builder.get_config_value(&object_store::azure::AzureConfigKey::Endpoint);
    let client = client().with_allow_http(is_plain_http(endpoint));
    let store = Arc::new(builder.with_client_options(client).with_retry(no_retry()).build()?);
    Ok(Place { kind: Kind::Bucket, objects: store.clone(), parts: Some(store), base, folder: None })
}

fn web(url: &str) -> object_store::Result<Place> {
    let client = client().with_allow_http(url.starts_with("http://"));
    let store = HttpBuilder::new().with_url(url).with_client_options(client).with_retry(no_retry());
    Ok(Place {
        kind: Kind::Web,
        objects: Arc::new(store.build()?),
        parts: None,
        base: Path::default(),
        folder: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_names_are_refused_with_the_reason() {
        let options = OpenOptions::default();
        for url in ["", "s3://", "file://relative", "ftp://host/x", "gs:///x"] {
            let refused = open(url, &options).map(|place| place.kind);
            assert!(matches!(refused, Err(StoreError::Url { .. })), "{url}: {refused:?}");
        }
        let missing = open("/nowhere/at/all", &options).map(|place| place.kind);
        assert!(matches!(missing, Err(StoreError::Folder { .. })), "{missing:?}");
    }

    #[test]
    fn a_web_server_is_not_written_to() {
        let options = OpenOptions { access: Access::Write, ..OpenOptions::default() };
        let refused = open("http://127.0.0.1:1/x", &options).map(|place| place.kind);
        assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
    }

    #[test]
    fn names_are_shown_without_secrets() {
        let cases = [
            ("s3://bucket/a", "s3://bucket/a"),
            ("https://me:secret@host/x?sig=1", "https://host/x"),
            ("abfss://box@account.example/x", "abfss://box@account.example/x"),
            ("/a/folder", "/a/folder"),
        ];
        for (url, expected) in cases {
            assert_eq!(display(url), expected);
        }
    }
}
