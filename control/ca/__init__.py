"""The certificate authority. What may live here: whatever makes, keeps, checks, changes or uses the keys that the mesh's identities hang
on.

material, make, csr, authority   certificates: what is read, made and signed; no I/O
state, rotation                  what is remembered and how it changes; pure
store, directory, mounted        where it is kept
holders                          who has certificates, and from when
keeper, upkeep                   the running CA
service, follow, serving         what clients and ports get of it
command, view                    what people get of it
assembly                         all of that as one
"""

from control.ca.assembly import CertificateAuthority as CertificateAuthority
from control.ca.directory import DirectoryStore as DirectoryStore
from control.ca.keeper import CaSettings as CaSettings
