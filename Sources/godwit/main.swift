internal import ControlCLI
internal import SystemPackage

#if canImport(Glibc)
    internal import Glibc
#endif

exit(Program.main())
