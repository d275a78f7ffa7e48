"""
What broke others with addresses, names and loops, case by case, and the tests that play it end to end. The list is held
against the tests, so that none of them goes unnoticed; a case without a test has no line.
"""
import ast

import pytest

from lab import HERE

ADDRESSES_DNS_LOOPS = {
    "allowed SNI or Host towards an unrelated address (curl --resolve, hosts file)": [
        "test_binding.py::test_an_allowed_name_towards_another_address_is_redialled", "test_binding.py::test_strict_binding_denies_instead",
        "test_ladder.py::test_another_address_by_mode", "test_ladder.py::test_a_poisoned_hosts_file",
        "test_certificates.py::test_a_certificate_for_another_name_does_not"],
    "denied name on an address that an allowed name shares (CDN)": ["test_ladder.py::test_a_denied_name_on_an_allowed_names_address"],
    "name that resolves to private, loopback, metadata, mapped, NAT64, 6to4, Teredo": [
        "test_guard.py::test_by_a_name_that_resolves_there", "test_guard.py::test_by_the_address_itself",
        "test_guard.py::test_no_configuration_opens_what_is_never_dialled",
        "test_binding.py::test_a_name_that_resolves_to_a_guarded_place_is_refused",
        "test_name_servers.py::test_rebinding_answers_are_refused_when_they_turn",
        "test_name_servers.py::test_rebinding_answers_do_not_lead_a_flow_there",
        "test_name_servers.py::test_a_private_address_beside_a_public_one_refuses_the_answer",
        "test_exec_redteam.py::test_no_answer_leads_to_a_guarded_place"],
    "IP spellings: octal, hex, short octets, 32-bit decimal, 0, trailing dot": [
        "test_ladder.py::test_an_address_is_no_name_however_it_is_spelt", "test_refusals.py::test_an_address_is_no_server_name"],
    "query of a denied name; over TCP; to another server; AAAA, HTTPS, TXT, NULL, long labels": [
        "test_dns.py::test_a_denied_name_never_leaves", "test_dns.py::test_nor_does_it_by_another_server",
        "test_dns.py::test_long_labels_carry_nothing_out", "test_names.py::test_types_without_a_rule_do_not_leave",
        "test_ladder.py::test_iodine_finds_no_way_out", "test_exec_redteam.py::test_dns_carries_nothing_out"],
    "TTL 0, TTL expiry under a live connection": [
        "test_names.py::test_a_ttl_of_zero_is_asked_for_again", "test_ladder.py::test_a_ttl_of_zero_binds_all_the_same",
        "test_dns.py::test_a_live_connection_outlives_its_answer"],
    "dialling the gateway's own ports by any address; a name that resolves to the gateway": [
        "test_closed_doors.py::test_the_gateways_own_ports_lead_nowhere",
        "test_exec_redteam.py::test_the_gateways_own_sockets_are_no_way_round",
        "test_binding.py::test_an_allowed_name_does_not_lead_to_the_gateways_own_machine"],
    "IPv6 client, IPv6-only origin, IPv4-only host": [
        "test_ladder.py::test_origins_of_one_family", "test_ladder.py::test_a_client_of_the_other_family_is_redialled",
        "test_name_servers.py::test_ipv4_only_host_serves_clients_that_chose_ipv6"],
    "container process with uid 0, any uid, any SO_MARK, raw socket": [
        "test_closed_doors.py::test_root_inside_cannot_open_a_way", "test_closed_doors.py::test_a_mark_changes_nothing",
        "test_exec_redteam.py::test_doors_are_shut"],
    "dead addresses": ["test_ladder.py::test_a_dead_first_address_is_invisible", "test_ladder.py::test_only_dead_addresses_are_said_to_be_so"],
    "10 k distinct names; EDNS 4096; DNS over TCP": [
        "test_names.py::test_ten_thousand_names", "test_names.py::test_an_answer_is_cut_to_what_the_client_takes",
        "test_dns.py::test_a_long_answer_comes_over_tcp", "test_dns.py::test_allowed_names_are_answered_whoever_is_asked"],
    "CNAME chains, deep and circular": [
        "test_name_servers.py::test_cname_chains_are_followed", "test_name_servers.py::test_cname_chains_end_somewhere",
        "test_dns.py::test_an_alias_leads_to_its_name"],
    "certificate right, wrong name, expired, self-signed, slow, dead, revoked": [
        "test_certificates.py::test_a_certificate_proves_an_address_that_dns_does_not_have",
        "test_certificates.py::test_always_denies_when_the_proof_fails", "test_certificates.py::test_a_slow_origin_stalls_nobody",
        "test_certificates.py::test_a_dead_origin_proves_nothing", "test_certificates.py::test_an_address_where_nobody_speaks_tls_proves_nothing",
        "test_ocsp.py::test_what_is_stapled"],
    "resolver dead or lying: closed, reason, recovery": [
        "test_name_servers.py::test_resolver_lying_is_closed_with_a_reason_and_recovers",
        "test_name_servers.py::test_resolver_lying_closes_flows_too", "test_name_servers.py::test_out_of_bailiwick_records_poison_nothing",
        "test_name_servers.py::test_resolver_dead_and_recovery", "test_names.py::test_a_dead_server_is_asked_last",
        "test_dot.py::test_a_server_that_does_not_prove_its_name_is_not_asked", "test_dot.py::test_a_server_that_died_and_came_back",
        "test_dot.py::test_a_server_that_is_of_no_use"],
}


def functions_in(file):
    return {node.name for node in ast.parse((HERE / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("case", ADDRESSES_DNS_LOOPS)
def test_each_case_has_its_tests(case):
    for test in ADDRESSES_DNS_LOOPS[case]:
        file, name = test.split("::")
        assert name in functions_in(file), f"{test} is gone: what plays this case now?"
