//! Opening a store: what is wrong with it is said with its cause and the next step.

use blob_store::{Access, BlobStore, StoreError};

use crate::rig::proxy::{Fault, Proxy};
use crate::rig::s3::{Auth, BUCKET, S3};
use crate::rig::{options, told};

/// The error for a store, opened for writing with these settings in place of the right ones.
async fn refusal(s3: &S3, url: &str, wrong: &[(&str, &str)]) -> StoreError {
    let mut options = s3.options(s3.address, Access::Write);
    for (name, value) in wrong {
        options.settings.push(((*name).to_owned(), (*value).to_owned()));
    }
    BlobStore::open(url, &options).await.unwrap_err()
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_bucket_are_told_apart() {
    let s3 = S3::start().await;
    let url = format!("s3://{BUCKET}/main");
    let key = refusal(&s3, &url, &[("aws_access_key_id", "AKIAOTHER")]).await;
    assert!(matches!(key, StoreError::Credentials { .. }), "{}", told(&key));
    let secret = refusal(&s3, &url, &[("aws_secret_access_key", "another")]).await;
    assert!(matches!(secret, StoreError::Credentials { .. }), "{}", told(&secret));
    assert!(told(&secret).contains("AWS_ACCESS_KEY_ID"), "{}", told(&secret));

    let missing = refusal(&s3, "s3://nowhere/main", &[]).await;
    assert!(matches!(missing, StoreError::NoBucket { .. }), "{}", told(&missing));
    assert!(told(&missing).contains("create it"), "{}", told(&missing));
}

/// Goal: a reader finds out that the bucket is missing too, although it may not list.
#[tokio::test]
async fn a_reader_tells_a_missing_bucket_from_a_missing_build() {
    let s3 = S3::start().await;
    let build = p2p_net::Digest::from_bytes([7; 32]).to_string().parse().unwrap();
    let options = s3.options(s3.address, Access::Read);
    let there = BlobStore::open(&format!("s3://{BUCKET}"), &options).await.unwrap();
    let error = blob_store::open_build(&there, build).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{}", told(&error));
    let missing = BlobStore::open("s3://nowhere", &options).await.unwrap();
    let error = blob_store::open_build(&missing, build).await.unwrap_err();
    assert!(matches!(error, StoreError::NoBucket { .. }), "{}", told(&error));
}

#[tokio::test]
async fn missing_permissions_are_named() {
    let s3 = S3::start().await;
    let denied = Fault::Answer { status: 403, code: "AccessDenied" };
    let answer = denied.clone();
    let no_list =
        Proxy::start(
            s3.address,
            move |seen| {
                if seen.is_list() { answer.clone() } else { Fault::None }
            },
        );
    let error = s3.store_by(no_list.await.address).await.unwrap_err();
    assert!(matches!(error, StoreError::Forbidden { operation: "list", .. }), "{}", told(&error));
    let no_write = Proxy::start(s3.address, move |seen| {
        if seen.method == hyper::Method::PUT { denied.clone() } else { Fault::None }
    });
    let error = s3.store_by(no_write.await.address).await.unwrap_err();
    assert!(matches!(error, StoreError::Forbidden { operation: "write", .. }), "{}", told(&error));
}

/// Goal: a store that overwrites what it should only create is refused before anything is lost.
#[tokio::test]
async fn a_store_that_ignores_preconditions_is_refused() {
    let s3 = S3::start_for(Auth::Anybody).await;
    s3.store_by(s3.address).await.unwrap();
    std::fs::remove_file(s3.bucket().join("main/probe")).unwrap();
    let proxy = Proxy::start(s3.address, |_| Fault::Without("if-none-match")).await;
    let error = s3.store_by(proxy.address).await.unwrap_err();
    assert!(matches!(error, StoreError::IgnoresPreconditions { .. }), "{}", told(&error));
}

#[tokio::test]
async fn nobody_listening_is_given_up_in_time() {
    let s3 = S3::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut options = s3.options(address, Access::Write);
    options.patience.give_up = std::time::Duration::from_millis(300);
    let error = BlobStore::open(&format!("s3://{BUCKET}"), &options).await.unwrap_err();
    assert!(matches!(error, StoreError::GaveUp { .. }), "{}", told(&error));
}

#[tokio::test]
async fn a_folder_is_made_for_a_publisher_and_missed_by_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/store");
    let url = path.to_str().unwrap();
    let error = BlobStore::open(url, &options(Access::Read)).await.unwrap_err();
    assert!(matches!(error, StoreError::Folder { .. }), "{}", told(&error));
    let file_url = format!("file://{url}");
    BlobStore::open(&file_url, &options(Access::Write)).await.unwrap();
    BlobStore::open(url, &options(Access::Read)).await.unwrap();
    let file = path.join("probe");
    let error = BlobStore::open(file.to_str().unwrap(), &options(Access::Read)).await.unwrap_err();
    assert!(matches!(error, StoreError::Folder { .. }), "{}", told(&error));
}
