//! Who may, and through which door.

use etcd_client::{ConnectOptions, Permission};

use super::*;

const ROOT_PASSWORD: &str = "correct horse";

/// Turns access control on: root, and a user "halley" who may what the documentation says.
async fn lock(etcd: &Etcd, password: &str) {
    lock_by(client(etcd).await, password).await;
}

pub(super) async fn lock_by(mut raw: Client, password: &str) {
    raw.user_add("root", ROOT_PASSWORD, None).await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    raw.role_add("discovery").await.unwrap();
    for prefix in ["/goim.", "/halley.meta/goim."] {
        let permission = Permission::read_write(prefix).with_prefix();
        raw.role_grant_permission("discovery", permission).await.unwrap();
    }
    raw.user_add("halley", password, None).await.unwrap();
    raw.user_grant_role("halley", "discovery").await.unwrap();
    raw.auth_enable().await.unwrap();
}

/// Why a node is refused. A busy etcd may take too long over the password first.
async fn refused(registry: &EtcdRegistry) -> String {
    let attempts = async {
        loop {
            match registry.register(comet(1)).await.err() {
                Some(RegistryError::Refused(why)) => return why,
                Some(RegistryError::Unavailable(_)) => {}
                None => panic!("it was taken"),
            }
        }
    };
    timeout(SOON, attempts).await.expect("refused in time")
}

pub(super) fn halley(etcd: &Etcd, password: &str) -> EtcdConfig {
    EtcdConfig { username: "halley".to_owned(), password: password.into(), ..short_lease(etcd) }
}

#[tokio::test]
async fn a_user_who_may_no_more_than_its_keys_is_enough() {
    let mut etcd = Etcd::start();
    lock(&etcd, "sesame").await;
    let registry = registry(&halley(&etcd, "sesame"));
    let _own = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
    // etcd forgets who had logged in.
    etcd.kill();
    until_up(&registry, false).await;
    etcd.restart();
    until_up(&registry, true).await;
    let _own = registered(&registry, comet(2)).await;
    until(&registry, |nodes| there(nodes, 1) && there(nodes, 2)).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_works_when_it_is_repaired() {
    let etcd = Etcd::start();
    lock(&etcd, "another").await;
    let registry = registry(&halley(&etcd, "sesame"));
    let why = refused(&registry).await;
    assert!(why.contains("password") && !why.contains("sesame"), "{why}");
    assert!(!*registry.up().borrow());
    let root = ConnectOptions::new().with_user("root", ROOT_PASSWORD);
    let mut root = Client::connect([etcd.addr()], Some(root)).await.unwrap();
    root.user_change_password("halley", "sesame").await.unwrap();
    until_up(&registry, true).await;
    let _own = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
}

#[tokio::test]
async fn a_user_without_permission_is_refused() {
    let etcd = Etcd::start();
    lock(&etcd, "sesame").await;
    let config = EtcdConfig { layout: "goim-docs".parse().unwrap(), ..halley(&etcd, "sesame") };
    let why = refused(&registry(&config)).await;
    assert!(why.contains("permission"), "{why}");
}

/// goim's files may name a user of an etcd that asks for none.
#[tokio::test]
async fn a_user_where_none_is_asked_for_is_no_trouble() {
    let etcd = shared();
    let config = EtcdConfig { layout: own_layout(), ..halley(&etcd, "sesame") };
    let registry = registry(&config);
    let _own = registered(&registry, comet(1)).await;
    until(&registry, |nodes| there(nodes, 1)).await;
}
