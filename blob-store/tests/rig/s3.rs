//! A real S3 server in this process, over a folder, and stores in it.

use std::net::SocketAddr;
use std::path::PathBuf;

use blob_store::{Access, BlobStore, OpenOptions, StoreError};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::options;

pub(crate) const BUCKET: &str = "builds";
const KEY: &str = "AKIATEST";
const SECRET: &str = "a-secret-of-the-test";

/// Whether the server looks at signatures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Auth {
    Signed,
    Anybody,
}

pub(crate) struct S3 {
    pub(crate) address: SocketAddr,
    folder: TempDir,
    auth: Auth,
    serving: JoinHandle<()>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl S3 {
    pub(crate) async fn start() -> Self {
        Self::start_for(Auth::Signed).await
    }

    pub(crate) async fn start_for(auth: Auth) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        if auth == Auth::Signed {
            builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(serving);
            }
        });
        Self { address, folder, auth, serving }
    }

    /// Where the server keeps the bucket.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }

    /// How to reach the server by way of `address`.
    pub(crate) fn options(&self, address: SocketAddr, access: Access) -> OpenOptions {
        let mut settings =
            vec![("aws_endpoint", format!("http://{address}")), ("aws_region", "us-east-1".into())];
        match self.auth {
            Auth::Signed => {
                settings.push(("aws_access_key_id", KEY.into()));
                settings.push(("aws_secret_access_key", SECRET.into()));
            }
            Auth::Anybody => settings.push(("aws_skip_signature", "true".into())),
        }
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        OpenOptions { settings, ..options(access) }
    }

    /// The store in the bucket, by way of `address`.
    pub(crate) async fn store_by(&self, address: SocketAddr) -> Result<BlobStore, StoreError> {
        let url = format!("s3://{BUCKET}/main");
        BlobStore::open(&url, &self.options(address, Access::Write)).await
    }

    pub(crate) async fn store(&self) -> BlobStore {
        self.store_by(self.address).await.unwrap()
    }
}
