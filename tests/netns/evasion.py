#!/usr/bin/env python3
"""
The evasion suite: what broke other gateways, row by row, and the end-to-end tests that show it does not break this one.

    evasion.py            print doc/EVASION.md
    evasion.py --write    write it (test_evasion.py holds the file against this table and the tests)

`pytest -m evasion tests/netns` runs them all. A test may serve several rows; a row without a test is an error.
"""
import ast
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "doc/EVASION.md"

# section → [(case, what happens here, [tests: "file::function", the file without test_ and .py])]
TABLE = {
    "TLS ClientHello": [
        ("one byte at a time; split over TCP segments; post-quantum key share (4 KiB hello)", "same verdict as in one piece",
         ["evasion_tls::test_one_byte_at_a_time_or_split_over_tcp_segments_or_post_quantum", "refusals::test_a_client_hello_in_pieces_is_the_same_hello"]),
        ("split over TLS records at every offset, even 1-byte records", "same verdict",
         ["evasion_tls::test_split_over_tls_records_at_every_offset", "refusals::test_a_client_hello_in_pieces_is_the_same_hello"]),
        ("zero-length handshake record; alert or application data inside the hello", "denied, `malformed_client_hello`",
         ["evasion_tls::test_zero_length_record_or_alert_inside_the_hello", "refusals::test_malformed_hellos"]),
        ("two server_name extensions, two names in the list, unknown name type first", "denied", ["evasion_tls::test_two_server_names"]),
        ("name length 0xffff, handshake length off by 4, key-share list overrun", "denied, or left to the server to refuse",
         ["evasion_tls::test_lengths_that_lie", "evasion_tls::test_key_share_list_overrun"]),
        ("TLS-1.3-only hello; record version 0x0300 to 0x0303; GREASE everywhere", "accepted",
         ["evasion_tls::test_tls_1_3_only_record_versions_and_grease", "web::test_origins_of_either_tls_version"]),
        ("SSLv2 hello, no SNI, not TLS, over 64 KiB, silence", "denied, with its own reason, audited",
         ["evasion_tls::test_sslv2_no_sni_not_tls_too_large", "refusals::test_who_says_nothing_meets_one_deadline", "refusals::test_a_hello_beyond_64_kib"]),
        ("NUL, CR LF, `/ : @ ?`, non-ASCII, space, address literals in SNI", "denied; the audit line stays one valid JSON line",
         ["evasion_tls::test_odd_bytes_in_sni", "evasion_tls::test_address_literals_in_sni", "audit::test_hostile_names_stay_inside_their_string"]),
        ("mixed case, one trailing dot, two trailing dots, empty label, label of 64, name of 254", "the first two normalised, the others denied",
         ["evasion_tls::test_mixed_case_dots_and_long_names", "web::test_case_and_one_trailing_dot_do_not_matter",
          "web::test_an_exact_name_allows_neither_longer_nor_deeper_ones"]),
        ("real and GREASE ECH", "the outer name decides; what was offered is recorded", ["evasion_tls::test_ech_real_or_grease_the_outer_name_decides"]),
        ("bytes behind the hello in the same read", "replayed byte-exact", ["evasion_tls::test_bytes_behind_the_hello_are_replayed_exactly"]),
    ],
    "HTTP": [
        ("a second request, kept-alive or pipelined, names a denied Host", "never reaches the origin; the first completes",
         ["http::test_the_second_request_of_a_connection_is_judged_too", "http::test_a_pipelined_denied_request_never_reaches_the_origin",
          "http::test_an_allowed_name_that_lives_elsewhere_is_not_asked_for_here"]),
        ("duplicate Host; bare `Host:` then another; Host absent", "`host_ambiguous`, `host_missing`", ["http::test_what_a_strict_server_would_refuse_is_refused"]),
        ("absolute-form target that disagrees; `?`, `,` or userinfo in the authority; a target without a slash", "denied",
         ["http::test_what_a_strict_server_would_refuse_is_refused", "exec_redteam::test_no_request_is_smuggled_past_the_gate"]),
        ("Host with a port: the dialled one, another, over 65535, not digits; IPv6 without brackets", "the dialled one is stripped, others denied",
         ["http::test_what_a_strict_server_would_refuse_is_refused", "http::test_what_a_strict_server_accepts_passes"]),
        ("CONNECT, `PRI * HTTP/2.0`, `Upgrade: h2c`, `HTTP2-Settings`", "denied, never read as HTTP/1", ["http::test_what_a_strict_server_would_refuse_is_refused"]),
        ("WebSocket granted; refused with 200 and then another request", "a tunnel only after 101; else still parsed",
         ["http::test_websocket_through_an_allowed_host", "http::test_after_a_refused_upgrade_requests_are_judged_again", "http::test_bytes_behind_an_upgrade_wait_for_the_answer"]),
        ("CL and TE, two CL, obs-fold, space before the colon, bare LF, NUL, over 64 KiB of headers", "denied, `malformed_http`",
         ["http::test_what_a_strict_server_would_refuse_is_refused", "exec_redteam::test_no_request_is_smuggled_past_the_gate"]),
        ("headers one byte a second", "one absolute deadline", ["refusals::test_slow_headers_meet_the_same_deadline"]),
        ("the server answers early while the client still uploads; 100-continue", "the answer is delivered",
         ["http::test_an_early_answer_reaches_a_client_that_still_uploads", "http::test_expect_100_continue"]),
        ("keep-alive", "connections are reused", ["web::test_keep_alive_is_kept"]),
        ("what nginx makes of the same bytes", "the same Hosts, request by request", ["http_differential::test_nginx_sees_the_hosts_that_the_gate_let_pass"]),
    ],
    "Addresses, DNS, loops": [
        ("an allowed SNI or Host towards an unrelated address", "redialled or denied, by `bind`",
         ["binding::test_an_allowed_name_towards_another_address_is_redialled", "binding::test_strict_binding_denies_instead", "ladder::test_a_poisoned_hosts_file"]),
        ("a denied name on an address that an allowed name shares", "denied",
         ["web::test_a_denied_name_on_the_address_of_an_allowed_one_is_denied", "ladder::test_a_denied_name_on_an_allowed_names_address"]),
        ("a name that resolves to private, loopback, metadata, mapped, NAT64, 6to4, Teredo addresses", "refused, unless its network is named",
         ["guard::test_by_a_name_that_resolves_there", "guard::test_by_the_address_itself", "exec_redteam::test_no_answer_leads_to_a_guarded_place",
          "exec_redteam::test_rebinding_between_two_questions_is_caught"]),
        ("spellings of addresses: octal, hex, short, 32-bit decimal, `0`, trailing dot", "never an allowed name",
         ["ladder::test_an_address_is_no_name_however_it_is_spelt", "evasion_tls::test_address_literals_in_sni"]),
        ("a query of a denied name; over TCP; to another server; AAAA, HTTPS, TXT, NULL, long labels", "never leaves; audited",
         ["dns::test_a_denied_name_never_leaves", "dns::test_nor_does_it_by_another_server", "dns::test_long_labels_carry_nothing_out",
          "exec_redteam::test_dns_carries_nothing_out", "names::test_types_without_a_rule_do_not_leave", "ladder::test_iodine_finds_no_way_out"]),
        ("TTL 0, TTL expiry under a live connection", "live flows untouched",
         ["dns::test_a_live_connection_outlives_its_answer", "ladder::test_a_ttl_of_zero_binds_all_the_same"]),
        ("dialling the gateway's own ports by any address; a name that resolves to the gateway", "`loop`, no recursion",
         ["closed_doors::test_the_gateways_own_ports_lead_nowhere", "binding::test_an_allowed_name_does_not_lead_to_the_gateways_own_machine",
          "exec_redteam::test_the_gateways_own_sockets_are_no_way_round"]),
        ("no original destination, or our own address", "denied, never the local address instead", ["closed_doors::test_the_gateways_own_ports_lead_nowhere"]),
        ("IPv6 client, IPv6-only origin, IPv4-only host", "both families the same",
         ["web::test_only_ipv4_or_only_ipv6", "ladder::test_origins_of_one_family", "ladder::test_a_client_of_the_other_family_is_redialled"]),
        ("a process with uid 0, any uid, any SO_MARK, a raw socket", "no way past",
         ["closed_doors::test_root_inside_cannot_open_a_way", "closed_doors::test_a_mark_changes_nothing", "enroll_sealed::test_root_inside_cannot_open_it",
          "exec_doors::test_socket_families_that_pass_round_the_network_namespace"]),
    ],
    "Lifecycle and load": [
        ("half-close either way; half-closed for long", "relayed; a timer ends it; nothing leaks",
         ["endings::test_a_client_that_finished_still_hears_the_answer", "endings::test_an_origin_that_finished_still_hears_the_client",
          "endings::test_half_closed_flows_have_a_timer"]),
        ("RST either way", "stays RST; never FIN for RST or RST for FIN",
         ["endings::test_a_reset_by_the_origin_is_a_reset", "endings::test_a_reset_by_the_client_is_a_reset"]),
        ("splice finds the pipe full", "never stalls", ["endings::test_a_slow_reader_stops_the_sender_and_loses_nothing", "bulk::test_download"]),
        ("descriptors run out", "a cap below the limit; no spin; audited",
         ["limits::test_few_descriptors_are_shared_out_not_run_out_of", "faults::test_every_call_of_the_worker_may_fail"]),
        ("one container opens connections without end, or scans", "its limit holds, others are served",
         ["limits::test_flows_of_one_container", "limits::test_new_flows_a_second",
          "gateway_limits::test_a_container_that_opens_connections_without_end_is_held_and_the_others_are_served",
          "closed_doors::test_a_flood_of_refused_packets_is_counted_not_logged"]),
        ("a policy tightened under live flows", "denied ones reset, allowed ones untouched", ["gateway_daemon::test_a_reload_judges_new_and_live_flows"]),
        ("worker killed, gateway killed, machine rebooted, state folder lost, policy file broken", "closed throughout; recovers by itself",
         ["gateway_daemon::test_whoever_is_killed_under_load_nothing_escapes_and_service_returns", "gateway_daemon::test_a_namespace_of_the_past_is_not_taken_for_the_container",
          "gateway_daemon::test_a_broken_file_changes_nothing_and_says_why", "exec_redteam::test_a_killed_worker_leaves_the_seal_shut_and_comes_back",
          "faults::test_state_files_as_a_power_cut_leaves_them"]),
        ("a container restarted with a new namespace under the same id; deleted while being enrolled", "the right one served, nothing left over",
         ["enroll_sealed::test_the_same_id_in_a_new_namespace_right_after", "enroll_sealed::test_500_containers_come_and_go_and_leave_nothing",
          "enroll_sealed::test_whoever_asks_and_leaves_gets_no_half_enrolment"]),
        ("an empty allow list", "allows nothing", ["web::test_an_empty_policy_allows_nothing", "bad_input::test_without_rules_everything_is_denied"]),
    ],
}


def all_tests():
    """"file::function" of every test there is."""
    found = set()
    for file in HERE.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{file.stem.removeprefix('test_')}::{node.name}")
    return found


def rows():
    return [(section, *row) for section, all_rows in TABLE.items() for row in all_rows]


def page():
    lines = ["# The evasion suite", "", "What broke other gateways, and the end-to-end tests (in `tests/netns/`, with real programs) that show what happens here.",
             "Written by `tests/netns/evasion.py --write` from the table that `pytest -m evasion tests/netns` runs; a test holds the two together.", ""]
    for section, all_rows in TABLE.items():
        lines += [f"## {section}", "", "| case | here | tests |", "|---|---|---|"]
        lines += [f"| {case} | {here} | {', '.join(f'`{test}`' for test in tests)} |" for case, here, tests in all_rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
