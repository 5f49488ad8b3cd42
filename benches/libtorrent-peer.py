#!/usr/bin/python3
"""One end of a libtorrent pair on loopback, for benches/pair.py: seeds a file, or fetches it and ends.

    libtorrent-peer.py seed  TORRENT DIR PORT    prints a line once it serves; runs until it is stopped
    libtorrent-peer.py fetch TORRENT DIR PORT    connects to the seeder at PORT; ends with the last piece
"""

import sys

import libtorrent


def main():
    role, torrent, folder, port = sys.argv[1:]
    session = libtorrent.session({
        "listen_interfaces": f"127.0.0.1:{port if role == 'seed' else 0}",
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        # uTP is several times slower; encryption is what the other end would not want either.
        "enable_outgoing_utp": False, "enable_incoming_utp": False,
        "in_enc_policy": libtorrent.enc_policy.disabled, "out_enc_policy": libtorrent.enc_policy.disabled,
        "allow_multiple_connections_per_ip": True,
        "alert_mask": libtorrent.alert.category_t.status_notification | libtorrent.alert.category_t.error_notification,
    })
    wanted = libtorrent.add_torrent_params()
    wanted.ti = libtorrent.torrent_info(torrent)
    wanted.save_path = folder
    wanted.trackers = []
    # Adding takes the defaults of "add paused and managed", which would wait for a queue.
    wanted.flags &= ~(libtorrent.torrent_flags.paused | libtorrent.torrent_flags.auto_managed)
    if role == "seed":
        wanted.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(wanted)
    if role == "seed":
        while not handle.status().is_seeding:
            session.wait_for_alert(50)
            session.pop_alerts()
        print("serving", flush=True)
        while True:
            session.wait_for_alert(60_000)
            session.pop_alerts()
    handle.connect_peer(("127.0.0.1", int(port)))
    while True:
        session.wait_for_alert(1_000)
        for alert in session.pop_alerts():
            if isinstance(alert, libtorrent.torrent_finished_alert):
                return 0
            if isinstance(alert, (libtorrent.torrent_error_alert, libtorrent.file_error_alert)):
                print(alert.message(), file=sys.stderr)
                return 1


if __name__ == "__main__":
    sys.exit(main())
