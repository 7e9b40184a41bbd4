"""The certificate authority. What may live here: whatever makes, keeps, checks, changes or uses the keys on which identities hang.

pem, material, make, csr, authority   certificates: what is read, checked, made and signed; no I/O
state, rotation                       what is remembered, and how it changes; pure
store, directory, copied, mounted     where it is kept
holders, rates                        who has certificates, from when, and how many it may ask for
keeper, upkeep, proof, problems       the running CA
service, follow, serving              what clients and ports get of it
command, view, metrics                what people get of it
assembly                              all of that as one
"""

from control.ca.assembly import CertificateAuthority as CertificateAuthority
from control.ca.directory import DirectoryStore as DirectoryStore
from control.ca.keeper import CaSettings as CaSettings
