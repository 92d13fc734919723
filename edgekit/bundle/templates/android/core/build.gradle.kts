plugins { kotlin("jvm") }

kotlin { jvmToolchain(17) }
